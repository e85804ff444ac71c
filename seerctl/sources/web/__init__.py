"""Images on the web: fetched by threads, within limits, without reaching into private networks or past opt-outs."""
