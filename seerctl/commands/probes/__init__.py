"""One thin module per protocol of `seerctl probe`: options, one library call, what `shared.run` writes and prints."""
