"""One module per place replicas can live."""
