"""Language models that write data: local ones and endpoints."""
