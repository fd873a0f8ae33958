"""The text learner: tokens, vocabulary, language model, classifier and what is made with them. Knows no source."""
