-- stopped
SELECT damerau_levenshtein(repeat('ab', 20000), repeat('ba', 20000))
