"""The Gateway between strategies and clients, and the transports behind it."""
