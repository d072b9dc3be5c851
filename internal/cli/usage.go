package cli

// Usage marks an error of those who implement commands as one of how weft was called: exit code 2.
func Usage(err error) error { return &usageError{err} }
