"""Table definitions: columns with unit and formula, migrations, sizes."""
