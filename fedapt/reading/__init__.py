"""Reading what people write: YAML with places, settings on the command line, errors as sentences."""
