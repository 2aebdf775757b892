"""Files of models and adapters: from where they are kept to a folder that an engine can read."""
