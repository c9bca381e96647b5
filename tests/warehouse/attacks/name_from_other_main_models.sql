-- refused: only the warehouse's own
FROM other.main.models
