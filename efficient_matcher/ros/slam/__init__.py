"""Adapters for SLAM systems that do not read the node's topics."""
