"""From stored bytes to training views: decoding to RGB and multi-crop."""
