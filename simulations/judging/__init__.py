"""VideoGLUE on runs and encoders of the zoo: who is judged, and what is written."""
