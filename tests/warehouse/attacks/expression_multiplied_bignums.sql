-- stopped
SELECT repeat('9', 10000000)::BIGNUM * repeat('9', 10000000)::BIGNUM
