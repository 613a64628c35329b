"""Pictures of single things: emoji and clip art, with questions about them."""
