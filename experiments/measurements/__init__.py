"""Tables of single questions: `-w auto`, flicker, sizes."""
