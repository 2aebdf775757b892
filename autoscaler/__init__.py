"""How many replicas of which variant. Pure, apart from its shell."""
