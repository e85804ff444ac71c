"""The HDF5 feature store and the extractor."""
