"""Drug-target prediction: the methods of jaxdiff.classify.interactions on published data."""
