"""What a coordinator hears and answers: agents, operators, strangers."""
