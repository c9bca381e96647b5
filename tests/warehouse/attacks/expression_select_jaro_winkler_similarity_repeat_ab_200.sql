-- stopped
SELECT jaro_winkler_similarity(repeat('ab', 2000000), repeat('ba', 2000000))
