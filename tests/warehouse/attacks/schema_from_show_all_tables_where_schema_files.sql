-- empty
FROM (SHOW ALL TABLES) WHERE schema = 'files'
