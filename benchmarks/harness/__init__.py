"""What the CPU and the GPU benchmark share.

`cases`: what a case is. `worker`: sets contenders up and compares their results. `records`: lines
of JSON from a worker to the script that started it. `processes`: a command with a time limit.
`report`: targets, losses and tables. `provenance`: commit and processor. `networks`: networks of
others, weights, arithmetic.
"""
