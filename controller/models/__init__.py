"""What a ``ModelService`` amounts to on Kubernetes: decisions only, made from what is observed."""
