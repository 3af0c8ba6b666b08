"""What operators and networks cost: time, memory, multiply-adds."""
