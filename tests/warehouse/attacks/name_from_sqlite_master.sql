-- refused: shows the engine
FROM sqlite_master
