-- refused: only the warehouse's own
FROM files.models_files
