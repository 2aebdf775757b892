"""Other routers' policies with their default constants, for comparison only: never in the product.

Written from their published formulas, not from their code. Each says what it may know: what that
router has in reality. An ``-oracle`` form is the same formula over what engines really have.
"""
