"""spheres: the processes that carry. Each holds a full copy of the weights; sums travel up and down their tree."""
