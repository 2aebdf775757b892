"""What the controller does for LoraAdapter objects: it says how they are."""
