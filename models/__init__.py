"""Networks, losses and methods: tensors only, no files and no Ray."""
