"""One thin module per subcommand: options, one library call, output."""
