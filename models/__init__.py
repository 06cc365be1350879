"""Networks, losses and methods: tensors only, no data files and no Ray."""
