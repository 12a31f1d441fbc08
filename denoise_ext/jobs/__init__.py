"""Many files: batches that resume, storage, clusters."""
