# The surroundings of a cluster on AWS: network, Kubernetes, and what it may use. See ../README.md.
terraform {
  required_version = ">= 1.7"
  required_providers {
    aws    = { source = "hashicorp/aws", version = "~> 5.80" }
    random = { source = "hashicorp/random", version = "~> 3.6" }
  }
}

provider "aws" {
  region = var.region
}

data "aws_availability_zones" "here" {
  state = "available"
}

locals {
  zones = slice(data.aws_availability_zones.here.names, 0, 3)
  tags  = { project = var.name }
}

# ------------------------------------------------------------------------------------------ network

resource "aws_vpc" "net" {
  cidr_block           = var.cidr
  enable_dns_hostnames = true
  tags                 = local.tags
}

resource "aws_internet_gateway" "out" {
  vpc_id = aws_vpc.net.id
  tags   = local.tags
}

resource "aws_subnet" "public" {
  count             = 3
  vpc_id            = aws_vpc.net.id
  cidr_block        = cidrsubnet(var.cidr, 8, count.index)
  availability_zone = local.zones[count.index]
  tags              = merge(local.tags, { "kubernetes.io/role/elb" = "1" })
}

resource "aws_subnet" "private" {
  count             = 3
  vpc_id            = aws_vpc.net.id
  cidr_block        = cidrsubnet(var.cidr, 8, count.index + 100)
  availability_zone = local.zones[count.index]
  tags              = merge(local.tags, { "kubernetes.io/role/internal-elb" = "1" })
}

resource "aws_eip" "nat" {
  domain = "vpc"
  tags   = local.tags
}

resource "aws_nat_gateway" "out" {
  allocation_id = aws_eip.nat.id
  subnet_id     = aws_subnet.public[0].id
  tags          = local.tags
  depends_on    = [aws_internet_gateway.out]
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.net.id
  tags   = local.tags
  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.out.id
  }
}

resource "aws_route_table" "private" {
  vpc_id = aws_vpc.net.id
  tags   = local.tags
  route {
    cidr_block     = "0.0.0.0/0"
    nat_gateway_id = aws_nat_gateway.out.id
  }
}

resource "aws_route_table_association" "public" {
  count          = 3
  subnet_id      = aws_subnet.public[count.index].id
  route_table_id = aws_route_table.public.id
}

resource "aws_route_table_association" "private" {
  count          = 3
  subnet_id      = aws_subnet.private[count.index].id
  route_table_id = aws_route_table.private.id
}

# --------------------------------------------------------------------------------------- Kubernetes

resource "aws_kms_key" "data" {
  description         = "disks, secrets and backups of ${var.name}"
  enable_key_rotation = true
  tags                = local.tags
}

resource "aws_iam_role" "cluster" {
  name = "${var.name}-cluster"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "eks.amazonaws.com" } }]
  })
}

resource "aws_iam_role_policy_attachment" "cluster" {
  role       = aws_iam_role.cluster.name
  policy_arn = "arn:aws:iam::aws:policy/AmazonEKSClusterPolicy"
}

resource "aws_iam_role" "machines" {
  name = "${var.name}-machines"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "ec2.amazonaws.com" } }]
  })
}

resource "aws_iam_role_policy_attachment" "machines" {
  for_each   = toset(["AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryReadOnly"])
  role       = aws_iam_role.machines.name
  policy_arn = "arn:aws:iam::aws:policy/${each.value}"
}

resource "aws_eks_cluster" "main" {
  name     = var.name
  role_arn = aws_iam_role.cluster.arn
  version  = var.kubernetes_version
  vpc_config {
    subnet_ids              = aws_subnet.private[*].id
    endpoint_private_access = true
    public_access_cidrs     = var.operators
  }
  encryption_config {
    resources = ["secrets"]
    provider {
      key_arn = aws_kms_key.data.arn
    }
  }
  tags       = local.tags
  depends_on = [aws_iam_role_policy_attachment.cluster]
}

# One group for each zone: a voter's disk cannot leave its zone, so there must be a machine in it.
resource "aws_eks_node_group" "members" {
  count           = 3
  cluster_name    = aws_eks_cluster.main.name
  node_group_name = "${var.name}-${local.zones[count.index]}"
  node_role_arn   = aws_iam_role.machines.arn
  subnet_ids      = [aws_subnet.private[count.index].id]
  instance_types  = [var.machine]
  scaling_config {
    desired_size = 1
    min_size     = 1
    max_size     = 3
  }
  tags       = local.tags
  depends_on = [aws_iam_role_policy_attachment.machines]
}

resource "aws_eks_addon" "disks" {
  cluster_name = aws_eks_cluster.main.name
  addon_name   = "aws-ebs-csi-driver"
}

# ------------------------------------------------------------------------- PostgreSQL, Redis, RabbitMQ

resource "aws_security_group" "backends" {
  name   = "${var.name}-backends"
  vpc_id = aws_vpc.net.id
  tags   = local.tags
  dynamic "ingress" {
    for_each = toset([5432, 5671, 6379])
    content {
      from_port       = ingress.value
      to_port         = ingress.value
      protocol        = "tcp"
      security_groups = [aws_eks_cluster.main.vpc_config[0].cluster_security_group_id]
    }
  }
}

resource "random_password" "backends" {
  for_each = toset(["postgres", "redis", "rabbitmq"])
  length   = 32
  special  = false
}

resource "aws_db_subnet_group" "store" {
  count      = var.shared_store ? 1 : 0
  name       = var.name
  subnet_ids = aws_subnet.private[*].id
}

resource "aws_db_instance" "store" {
  count                     = var.shared_store ? 1 : 0
  identifier                = var.name
  engine                    = "postgres"
  engine_version            = "16"
  instance_class            = var.store_machine
  allocated_storage         = var.store_gb
  storage_type              = "gp3"
  storage_encrypted         = true
  kms_key_id                = aws_kms_key.data.arn
  multi_az                  = true
  db_name                   = "acordo"
  username                  = "acordo"
  password                  = random_password.backends["postgres"].result
  db_subnet_group_name      = aws_db_subnet_group.store[0].name
  vpc_security_group_ids    = [aws_security_group.backends.id]
  backup_retention_period   = 14
  deletion_protection       = true
  final_snapshot_identifier = "${var.name}-last"
  tags                      = local.tags
}

resource "aws_elasticache_subnet_group" "cache" {
  count      = var.cache ? 1 : 0
  name       = var.name
  subnet_ids = aws_subnet.private[*].id
}

resource "aws_elasticache_replication_group" "cache" {
  count                      = var.cache ? 1 : 0
  replication_group_id       = var.name
  description                = "cache of ${var.name}"
  engine                     = "redis"
  node_type                  = "cache.t4g.medium"
  num_cache_clusters         = 2
  automatic_failover_enabled = true
  multi_az_enabled           = true
  transit_encryption_enabled = true
  at_rest_encryption_enabled = true
  auth_token                 = random_password.backends["redis"].result
  subnet_group_name          = aws_elasticache_subnet_group.cache[0].name
  security_group_ids         = [aws_security_group.backends.id]
}

resource "aws_mq_broker" "broker" {
  count                      = var.broker ? 1 : 0
  broker_name                = var.name
  engine_type                = "RabbitMQ"
  engine_version             = "3.13"
  host_instance_type         = "mq.m5.large"
  deployment_mode            = "CLUSTER_MULTI_AZ"
  publicly_accessible        = false
  auto_minor_version_upgrade = true
  subnet_ids                 = aws_subnet.private[*].id
  security_groups            = [aws_security_group.backends.id]
  user {
    username = "acordo"
    password = random_password.backends["rabbitmq"].result
  }
}

# --------------------------------------------------------------------------------- secrets, backups

resource "random_password" "members" {
  length  = 64
  special = false
}

resource "aws_secretsmanager_secret" "acordo" {
  name       = "${var.name}/kubernetes"
  kms_key_id = aws_kms_key.data.arn
}

resource "aws_secretsmanager_secret_version" "acordo" {
  secret_id = aws_secretsmanager_secret.acordo.id
  secret_string = jsonencode({
    raft         = random_password.members.result
    ACORDO_STORE = var.shared_store ? "postgresql://acordo:${random_password.backends["postgres"].result}@${aws_db_instance.store[0].address}/acordo" : ""
    ACORDO_CACHE = var.cache ? "rediss://:${random_password.backends["redis"].result}@${aws_elasticache_replication_group.cache[0].primary_endpoint_address}" : ""
    ACORDO_BROADCAST = var.broker ? replace(aws_mq_broker.broker[0].instances[0].endpoints[0], "amqps://", "amqps://acordo:${random_password.backends["rabbitmq"].result}@") : ""
  })
}

resource "aws_s3_bucket" "backups" {
  bucket              = var.backup_bucket
  object_lock_enabled = true
  tags                = local.tags
}

resource "aws_s3_bucket_versioning" "backups" {
  bucket = aws_s3_bucket.backups.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_object_lock_configuration" "backups" {
  bucket = aws_s3_bucket.backups.id
  rule {
    default_retention {
      mode = "COMPLIANCE"
      days = var.backup_days
    }
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "backups" {
  bucket = aws_s3_bucket.backups.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.data.arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "backups" {
  bucket                  = aws_s3_bucket.backups.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

# The job that writes backups: it may add objects, and neither delete nor replace them.
resource "aws_iam_policy" "backup" {
  name = "${var.name}-backup"
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = ["s3:PutObject"], Resource = "${aws_s3_bucket.backups.arn}/*" }]
  })
}
