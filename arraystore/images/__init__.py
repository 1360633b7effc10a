"""Encoded images: probed, decoded and encoded again."""
