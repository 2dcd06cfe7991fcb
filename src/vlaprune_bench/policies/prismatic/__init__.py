"""The vision-language model under OpenVLA and OpenVLA-OFT: two ViTs, a projector, a Llama."""
