"""What every room uses: types, trees, static data, packed arrays. Nothing here knows a cell or an algorithm."""
