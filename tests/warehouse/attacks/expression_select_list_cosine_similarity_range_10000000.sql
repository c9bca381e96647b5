-- stopped
SELECT list_cosine_similarity(range(100000000), range(100000000))
