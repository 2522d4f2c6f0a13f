output "cluster" {
  value = aws_eks_cluster.main.name
}

output "secret" {
  description = "what becomes the Secrets acordo-raft and acordo-backends"
  value       = aws_secretsmanager_secret.acordo.arn
}

output "backups" {
  value = aws_s3_bucket.backups.bucket
}

output "backup_policy" {
  value = aws_iam_policy.backup.arn
}
