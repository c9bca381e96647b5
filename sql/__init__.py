"""The SQL files: views (staging, intermediate, marts, questions), macros, comparisons, tests, figures, explorer."""
