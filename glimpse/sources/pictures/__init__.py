"""What readers of radiographs and of photographs share: files of one plane."""
