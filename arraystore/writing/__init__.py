"""Stores in the making: planned, filled, resumed and published."""
