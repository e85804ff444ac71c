"""What a run of any size takes, from real steps of one of its ranks on tensors that hold nothing."""
