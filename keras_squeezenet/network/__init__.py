"""What a SqueezeNet is: its description, layers and constructors, published weights, its costs."""
