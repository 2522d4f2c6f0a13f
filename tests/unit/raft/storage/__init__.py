"""What a member keeps on its disk, tried by kills, power cuts and flipped bytes."""
