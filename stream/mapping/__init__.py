"""From the bytes of the user's messages to `Rows`: the user's field mapping, made into a decoder at start-up."""

from stream.mapping.decoder import Decoder, Piece, Values

__all__ = ["Decoder", "Piece", "Values"]
