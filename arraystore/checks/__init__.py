"""What must hold of a store, each part for itself: how it is stored, columns, images, source."""
