-- refused: only the warehouse's own
FROM other.models
