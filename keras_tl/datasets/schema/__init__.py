"""What a sample may be: kinds of fields, their names, and the schema that checks them."""
