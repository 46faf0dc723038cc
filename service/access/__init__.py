"""Who may ask, and how much: API keys, clients and their addresses, and what a client may take."""
