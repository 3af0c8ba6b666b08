"""Stands in for torchvision, of which there is no build for every torch: what two architectures of spandrel import."""
