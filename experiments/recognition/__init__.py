"""Recipe and figures of the recognizer that the project ships."""
