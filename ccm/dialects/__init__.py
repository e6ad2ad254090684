"""Messages to another API and back, one pure module per dialect. `table.py` lists them."""
