"""Looking at a blend before it is trained on: rows checked, counted, drawn and shown."""
